locals {
  name = "bentoflow-${var.environment}"
}

module "network" {
  source = "./modules/network"

  name        = local.name
  cidr        = var.cidr
  zones       = var.zones
  one_gateway = var.one_gateway
  key         = module.secrets.key
}

module "cluster" {
  source = "./modules/cluster"

  name           = local.name
  kubernetes     = var.kubernetes
  subnets        = module.network.inside
  api_access     = var.api_access
  administrators = var.administrators
  nodes          = var.nodes
  key            = module.secrets.key
}

module "registry" {
  source = "./modules/registry"

  name         = local.name
  repositories = concat(var.use_cases, ["bentoflow-flows"])
  key          = module.secrets.key
}

module "storage" {
  source = "./modules/storage"

  name = local.name
  key  = module.secrets.key
}

module "files" {
  source = "./modules/files"

  name    = local.name
  network = module.network.id
  subnets = module.network.inside
  from    = module.cluster.security_group
  key     = module.secrets.key
}

module "database" {
  source = "./modules/database"

  name    = local.name
  network = module.network.id
  subnets = module.network.inside
  from    = module.cluster.security_group
  key     = module.secrets.key
  size    = var.database

  protected = var.protected
}

module "cache" {
  source = "./modules/cache"

  name    = local.name
  network = module.network.id
  subnets = module.network.inside
  from    = module.cluster.security_group
  key     = module.secrets.key
  size    = var.cache
}

module "balancer" {
  source = "./modules/balancer"
  count  = var.certificate == null ? 0 : 1

  name        = local.name
  network     = module.network.id
  cidr        = var.cidr
  subnets     = module.network.outside
  to          = module.cluster.security_group
  port        = var.gateway_port
  certificate = var.certificate
  logs        = module.storage.logs
  protected   = var.protected
}

module "secrets" {
  source = "./modules/secrets"

  name = local.name
}

module "identity" {
  source = "./modules/identity"

  name                = local.name
  issuer              = module.cluster.issuer
  buckets             = module.storage.buckets
  repositories        = module.registry.arns
  secret              = module.secrets.prefect
  key                 = module.secrets.key
  balanced            = var.certificate != null
  target_group        = one(module.balancer[*].target_group)
  repository          = var.repository
  github_environments = var.github_environments
  github_provider     = var.github_provider
}

module "alarms" {
  source = "./modules/alarms"

  name     = local.name
  topics   = var.alarm_topics
  database = module.database.id
  cache    = module.cache.members
  balancer = one(module.balancer[*].dimensions)
}
