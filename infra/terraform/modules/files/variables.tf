variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "network" {
  description = "Id of the VPC."
  type        = string
}

variable "subnets" {
  description = "Ids of the private subnets, one a zone."
  type        = list(string)
}

variable "from" {
  description = "Security group of the cluster, the only one that may connect."
  type        = string
}

variable "key" {
  description = "ARN of the KMS key that encrypts at rest."
  type        = string
}
