output "arns" {
  value = [for repository in aws_ecr_repository.this : repository.arn]
}

output "address" {
  value = dirname(aws_ecr_repository.this[var.repositories[0]].repository_url)
}
