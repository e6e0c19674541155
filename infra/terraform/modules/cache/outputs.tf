output "host" {
  value = aws_elasticache_replication_group.this.primary_endpoint_address
}

output "secret" {
  value = aws_secretsmanager_secret.this.arn
}

output "members" {
  value = [for number in range(1 + var.size.replicas) : format("%s-%03d", var.name, number + 1)]
}
