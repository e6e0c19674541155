# Snapshots and journal, MLflow's artefacts, and the access logs of both and of the balancer.

locals {
  kept = toset(["data", "artefacts"])
  all  = setunion(local.kept, ["logs"])
}

data "aws_caller_identity" "this" {}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_144:a second region is a decision about money and law, not a default
  #checkov:skip=CKV2_AWS_62:nothing here is told of new objects
  #checkov:skip=CKV_AWS_18:the bucket of the logs logs nothing of itself; the others do, below
  #checkov:skip=CKV_AWS_145:the balancer writes its logs to a bucket encrypted by S3 alone; the others have the key
  for_each = local.all

  bucket = "${var.name}-${each.key}-${data.aws_caller_identity.this.account_id}"
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    bucket_key_enabled = each.key != "logs"

    apply_server_side_encryption_by_default {
      sse_algorithm     = each.key == "logs" ? "AES256" : "aws:kms"
      kms_master_key_id = each.key == "logs" ? null : var.key
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    id     = "leftovers"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 90 # that long what was overwritten or deleted can be had back
    }

    dynamic "expiration" {
      for_each = each.key == "logs" ? [365] : []

      content {
        days = expiration.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_logging" "this" {
  for_each = local.kept

  bucket        = aws_s3_bucket.this[each.key].id
  target_bucket = aws_s3_bucket.this["logs"].id
  target_prefix = "s3/${each.key}/"

  depends_on = [aws_s3_bucket_policy.this] # S3 asks whether it may write there
}
