output "id" {
  value = aws_efs_file_system.this.id
}

output "access_point" {
  value = aws_efs_access_point.this.id
}
