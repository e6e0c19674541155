output "cluster" {
  description = "Name of the cluster: `aws eks update-kubeconfig --name …`."
  value       = module.cluster.name
}

output "registry" {
  description = "BENTOFLOW_REGISTRY of the worker."
  value       = module.registry.address
}

output "buckets" {
  description = "Buckets of snapshots and journal (`data`) and of MLflow's artefacts (`artefacts`)."
  value       = { for use, bucket in module.storage.buckets : use => bucket.name }
}

output "files" {
  description = "Parameters of the EFS storage class of the journal: file system and access point of user 10001."
  value       = { file_system = module.files.id, access_point = module.files.access_point }
}

output "database" {
  description = "Host of PostgreSQL, and the secret with its user and password, which RDS keeps and rotates."
  value       = { host = module.database.host, secret = module.database.secret }
}

output "cache" {
  description = "Host of Valkey (rediss://, port 6379), and the secret with the password that BENTOFLOW_ONLINE_STORE needs."
  value       = { host = module.cache.host, secret = module.cache.secret }
}

output "target_group" {
  description = "Target group of the gateway's pods, for a TargetGroupBinding; null without a balancer."
  value       = one(module.balancer[*].target_group)
}

output "address" {
  description = "Name of the public balancer, for the services' DNS records; null without one."
  value       = one(module.balancer[*].address)
}

output "prefect_secret" {
  description = "PREFECT_SECRET of the GitHub environments; put API_URL and API_KEY into it as JSON."
  value       = module.secrets.prefect_name
}

output "github_roles" {
  description = "AWS_ROLE of each GitHub environment."
  value       = module.identity.github_roles
}

output "pod_roles" {
  description = "Roles for the annotation eks.amazonaws.com/role-arn of service accounts: worker, mlflow, balancer."
  value       = module.identity.pod_roles
}
