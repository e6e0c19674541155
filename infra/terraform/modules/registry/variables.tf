variable "name" {
  description = "What every resource begins with."
  type        = string
}

variable "repositories" {
  description = "Names of the repositories."
  type        = list(string)
}

variable "key" {
  description = "ARN of the KMS key that encrypts at rest."
  type        = string
}
