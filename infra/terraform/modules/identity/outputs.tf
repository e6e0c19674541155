output "github_roles" {
  value = { for environment, role in aws_iam_role.github : environment => role.arn }
}

output "pod_roles" {
  value = { for account, role in aws_iam_role.pod : account => role.arn }
}
