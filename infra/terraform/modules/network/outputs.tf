output "id" {
  value = aws_vpc.this.id
}

output "outside" {
  value = [for subnet in aws_subnet.outside : subnet.id]
}

output "inside" {
  value = [for subnet in aws_subnet.inside : subnet.id]
}
