variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "cidr" {
  description = "Addresses, a /16."
  type        = string
}

variable "zones" {
  description = "Availability zones."
  type        = list(string)
}

variable "one_gateway" {
  description = "One NAT gateway for all zones."
  type        = bool
}

variable "key" {
  description = "ARN of the KMS key that encrypts at rest."
  type        = string
}
