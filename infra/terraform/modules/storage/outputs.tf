output "buckets" {
  value = { for use in local.kept : use => { name = aws_s3_bucket.this[use].id, arn = aws_s3_bucket.this[use].arn } }
}

output "logs" {
  value = aws_s3_bucket.this["logs"].id

  depends_on = [aws_s3_bucket_policy.this]
}
