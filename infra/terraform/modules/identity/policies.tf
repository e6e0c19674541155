data "aws_iam_policy_document" "objects" { # of one bucket: its objects and their list, never its settings
  for_each = var.buckets

  statement {
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [each.value.arn]
  }

  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${each.value.arn}/*"]
  }
}

data "aws_iam_policy_document" "key" {
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.key]

    condition {
      test     = "StringLike"
      variable = "kms:ViaService"
      values   = ["s3.*.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "worker" { # snapshots, journal, artefacts, and the images of releases
  source_policy_documents = concat(
    [for document in data.aws_iam_policy_document.objects : document.json],
    [data.aws_iam_policy_document.key.json],
  )

  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # it is of the account, not of a repository
  }

  statement {
    actions = [
      "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage",
    ]
    resources = var.repositories
  }
}

data "aws_iam_policy_document" "mlflow" {
  source_policy_documents = [
    data.aws_iam_policy_document.objects["artefacts"].json,
    data.aws_iam_policy_document.key.json,
  ]
}

data "aws_iam_policy_document" "balancer" { # enough for TargetGroupBindings; it makes no balancers
  count = var.balanced ? 1 : 0

  statement {
    actions   = ["elasticloadbalancing:RegisterTargets", "elasticloadbalancing:DeregisterTargets"]
    resources = [var.target_group]
  }

  statement {
    #checkov:skip=CKV_AWS_356:none of these can be bound to a resource
    actions = [
      "elasticloadbalancing:DescribeTargetGroups", "elasticloadbalancing:DescribeTargetHealth",
      "elasticloadbalancing:DescribeTargetGroupAttributes", "ec2:DescribeVpcs", "ec2:DescribeSubnets",
      "ec2:DescribeSecurityGroups", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeAvailabilityZones",
    ]
    resources = ["*"]
  }
}
