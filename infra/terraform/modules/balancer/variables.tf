variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "network" {
  description = "Id of the VPC."
  type        = string
}

variable "cidr" {
  description = "Addresses of the VPC."
  type        = string
}

variable "subnets" {
  description = "Ids of the public subnets, one a zone."
  type        = list(string)
}

variable "to" {
  description = "Security group of the cluster."
  type        = string
}

variable "port" {
  description = "Port of the pods of the gateway."
  type        = number
}

variable "certificate" {
  description = "ARN of the certificate."
  type        = string
}

variable "logs" {
  description = "Bucket of the access logs."
  type        = string
}

variable "protected" {
  description = "Whether it refuses to be deleted."
  type        = bool
}
