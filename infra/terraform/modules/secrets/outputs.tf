output "key" {
  value = aws_kms_key.this.arn
}

output "prefect" {
  value = aws_secretsmanager_secret.prefect.arn
}

output "prefect_name" {
  value = aws_secretsmanager_secret.prefect.name
}
