output "id" {
  value = aws_db_instance.this.identifier
}

output "host" {
  value = aws_db_instance.this.address
}

output "secret" {
  value = one(aws_db_instance.this.master_user_secret[*].secret_arn)
}
