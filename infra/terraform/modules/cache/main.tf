# Valkey, the online store. It evicts nothing: a feature that is gone would be answered as missing, so a full cache fails
# writes instead, and the alarm comes before.

resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnets
}

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-cache-"
  description = "Valkey from the cluster"
  vpc_id      = var.network
}

resource "aws_vpc_security_group_ingress_rule" "valkey" {
  security_group_id            = aws_security_group.this.id
  description                  = "Valkey from the cluster"
  referenced_security_group_id = var.from
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

resource "aws_elasticache_parameter_group" "this" {
  name   = var.name
  family = "valkey8"

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }
}

resource "aws_elasticache_replication_group" "this" {
  #checkov:skip=CKV2_AWS_50:failover is on where there is a replica, and the default is one; checkov reads no object
  replication_group_id = var.name
  description          = "online features"
  engine               = "valkey"
  engine_version       = "8.0"
  node_type            = var.size.type
  num_cache_clusters   = 1 + var.size.replicas

  automatic_failover_enabled = var.size.replicas > 0
  multi_az_enabled           = var.size.replicas > 0
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.this.id]
  parameter_group_name       = aws_elasticache_parameter_group.this.name

  at_rest_encryption_enabled = true
  kms_key_id                 = var.key
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  auth_token                 = terraform_data.password.output
  auth_token_update_strategy = "ROTATE"

  snapshot_retention_limit = 1
}

data "aws_secretsmanager_random_password" "this" {
  password_length     = 48
  exclude_punctuation = true # it stands in a URL
}

resource "terraform_data" "password" { # made once; the state holds it, and is encrypted
  input = data.aws_secretsmanager_random_password.this.random_password

  lifecycle {
    ignore_changes = [input]
  }
}

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:a new password needs the services restarted; `terraform apply -replace` of it rotates
  name        = "${var.name}/valkey"
  description = "Password of the online store"
  kms_key_id  = var.key
}

resource "aws_secretsmanager_secret_version" "this" {
  secret_id     = aws_secretsmanager_secret.this.id
  secret_string = terraform_data.password.output
}
