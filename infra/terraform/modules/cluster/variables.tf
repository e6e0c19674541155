variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "kubernetes" {
  description = "Version."
  type        = string
}

variable "subnets" {
  description = "Ids of the private subnets, one a zone."
  type        = list(string)
}

variable "api_access" {
  description = "Addresses that reach the API from outside."
  type        = list(string)
}

variable "administrators" {
  description = "ARNs of IAM roles."
  type        = list(string)
}

variable "nodes" {
  description = "Instance type, bounds of their number, GiB of their disks."
  type        = object({ type = string, min = number, max = number, disk = number })
}

variable "key" {
  description = "ARN of the KMS key that encrypts at rest."
  type        = string
}
