variable "name" {
  description = "What every resource begins with."
  type        = string
}
