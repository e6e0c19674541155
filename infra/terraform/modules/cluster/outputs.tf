output "name" {
  value = aws_eks_cluster.this.name
}

output "security_group" {
  value = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

output "issuer" {
  value = { url = local.issuer, provider = aws_iam_openid_connect_provider.this.arn }
}
