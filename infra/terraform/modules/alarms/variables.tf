variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "topics" {
  description = "ARNs of SNS topics."
  type        = list(string)
}

variable "database" {
  description = "Identifier of the database."
  type        = string
}

variable "cache" {
  description = "Ids of the members of the cache."
  type        = list(string)
}

variable "balancer" {
  description = "Dimensions of the balancer and its target group; null without one."
  type        = map(string)
}
