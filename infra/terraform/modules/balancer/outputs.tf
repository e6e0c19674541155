output "arn" {
  value = aws_lb.this.arn
}

output "address" {
  value = aws_lb.this.dns_name
}

output "target_group" {
  value = aws_lb_target_group.this.arn
}

output "dimensions" {
  value = { LoadBalancer = aws_lb.this.arn_suffix, TargetGroup = aws_lb_target_group.this.arn_suffix }
}
