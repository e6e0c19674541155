variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "issuer" {
  description = "OIDC issuer of the cluster, without scheme, and the ARN of its provider."
  type        = object({ url = string, provider = string })
}

variable "buckets" {
  description = "Buckets by use: data and artefacts."
  type        = map(object({ name = string, arn = string }))
}

variable "repositories" {
  description = "ARNs of the image repositories."
  type        = list(string)
}

variable "secret" {
  description = "ARN of the Prefect secret."
  type        = string
}

variable "key" {
  description = "ARN of the KMS key."
  type        = string
}

variable "balanced" {
  description = "Whether there is a balancer, which the target group alone does not tell before it is made."
  type        = bool
}

variable "target_group" {
  description = "ARN of the target group; null without a balancer."
  type        = string
}

variable "repository" {
  description = "GitHub repository, owner/name."
  type        = string
}

variable "github_environments" {
  description = "GitHub environments that take a role."
  type        = list(string)
}

variable "github_provider" {
  description = "ARN of the OIDC provider for GitHub, null to make it."
  type        = string
}
