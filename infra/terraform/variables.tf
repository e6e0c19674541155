variable "environment" {
  description = "Name of the environment, which every resource begins with and which is the GitHub environment too."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.environment))
    error_message = "environment must be 3 to 20 lower-case letters, digits and dashes, such as staging."
  }
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "cidr" {
  description = "Addresses of the network; within 10.0.0.0/8, where the network policies look for Redis and PostgreSQL."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && startswith(var.cidr, "10.") && endswith(var.cidr, "/16")
    error_message = "cidr must be a /16 within 10.0.0.0/8, such as 10.64.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones: at least two, as PostgreSQL, Valkey, EKS and the balancer are spread over them."
  type        = list(string)

  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 4 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones must be two to four different availability zones."
  }
}

variable "one_gateway" {
  description = "One NAT gateway for all zones: a third of the price, and no way out if its zone fails."
  type        = bool
  default     = false
}

variable "api_access" {
  description = "Addresses that may reach the Kubernetes API from outside; none keeps it inside the network."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_access : can(cidrnetmask(cidr)) && cidr != "0.0.0.0/0"])
    error_message = "api_access must be ranges of addresses, and never 0.0.0.0/0."
  }
}

variable "kubernetes" {
  description = "Version of Kubernetes; 1.32 or newer for `preStop: sleep`."
  type        = string
  default     = "1.33"

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes)) && tonumber(split(".", var.kubernetes)[1]) >= 32
    error_message = "kubernetes must be 1.32 or newer, such as 1.33."
  }
}

variable "administrators" {
  description = "ARNs of IAM roles that administer the cluster."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.administrators : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/", arn))])
    error_message = "administrators must be ARNs of IAM roles."
  }
}

variable "nodes" {
  description = "Size of the node group: x86_64, since whylogs has no wheels elsewhere."
  type = object({
    type = optional(string, "m7i.large")
    min  = optional(number, 2)
    max  = optional(number, 10)
    disk = optional(number, 100) # GiB: images of about 900 MB each
  })
  default = {}

  validation {
    condition     = var.nodes.min >= 2 && var.nodes.min <= var.nodes.max
    error_message = "nodes.min must be at least 2, so that a node can be replaced, and at most nodes.max."
  }

  validation {
    condition     = !can(regex("^(a1|[a-z][0-9]g)", split(".", var.nodes.type)[0]))
    error_message = "nodes.type must be of x86_64, such as m7i.large; whylogs has no wheels for ARM."
  }

  validation {
    condition     = var.nodes.disk >= 50
    error_message = "nodes.disk must be at least 50 GiB."
  }
}

variable "use_cases" {
  description = "Use cases, each a repository of images."
  type        = list(string)
  default     = ["churn", "fraud"]

  validation {
    condition     = length(var.use_cases) > 0 && alltrue([for name in var.use_cases : can(regex("^[a-z][a-z0-9_]*$", name))])
    error_message = "use_cases must be names such as churn."
  }
}

variable "database" {
  description = "Size of PostgreSQL: databases of Prefect, MLflow and Feast's registry."
  type = object({
    class       = optional(string, "db.t4g.medium")
    storage     = optional(number, 50) # GiB to begin with; grows to four times as much
    standby     = optional(bool, true)
    backup_days = optional(number, 14)
  })
  default = {}

  validation {
    condition     = var.database.storage >= 20
    error_message = "database.storage must be at least 20 GiB."
  }

  validation {
    condition     = var.database.backup_days >= 1 && var.database.backup_days <= 35
    error_message = "database.backup_days must be 1 to 35."
  }
}

variable "protected" {
  description = "Database and balancer refuse to be deleted, and the database leaves a last snapshot."
  type        = bool
  default     = true
}

variable "cache" {
  description = "Size of Valkey, the online store: about 200 bytes an entity and feature view."
  type = object({
    type     = optional(string, "cache.t4g.small")
    replicas = optional(number, 1)
  })
  default = {}

  validation {
    condition     = var.cache.replicas >= 0 && var.cache.replicas <= 5
    error_message = "cache.replicas must be 0 to 5; with 0 nothing takes over."
  }
}

variable "certificate" {
  description = "ARN of an ACM certificate for the services' host names; null for no public balancer."
  type        = string
  default     = null

  validation {
    condition     = var.certificate == null || can(regex("^arn:aws[a-z-]*:acm:", var.certificate))
    error_message = "certificate must be the ARN of an ACM certificate, or null."
  }
}

variable "gateway_port" {
  description = "Port on which the pods of the cluster's gateway listen."
  type        = number
  default     = 8080

  validation {
    condition     = var.gateway_port >= 1024 && var.gateway_port <= 65535
    error_message = "gateway_port must be 1024 to 65535: a pod without capabilities cannot listen below."
  }
}

variable "repository" {
  description = "The GitHub repository whose workflows may take a role here, as owner/name."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository must be owner/name."
  }
}

variable "github_environments" {
  description = "GitHub environments whose jobs may read the Prefect secret of this environment."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.github_environments : can(regex("^[A-Za-z0-9_-]+$", name))])
    error_message = "github_environments must be names of environments, without wildcards."
  }
}

variable "github_provider" {
  description = "ARN of the account's OIDC provider for GitHub, if it has one already; null makes it."
  type        = string
  default     = null
}

variable "alarm_topics" {
  description = "ARNs of SNS topics that alarms go to."
  type        = list(string)
  default     = []
}
