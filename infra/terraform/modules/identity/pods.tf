# Roles of pods, by namespace and service account: annotate it with eks.amazonaws.com/role-arn.

locals {
  accounts = merge(
    {
      worker = { subject = "bentoflow:worker", policy = data.aws_iam_policy_document.worker.json }
      mlflow = { subject = "mlflow:mlflow", policy = data.aws_iam_policy_document.mlflow.json }
    },
    var.balanced ? {
      balancer = {
        subject = "kube-system:aws-load-balancer-controller"
        policy  = one(data.aws_iam_policy_document.balancer[*].json)
      }
    } : {},
  )
}

resource "aws_iam_role" "pod" {
  for_each = local.accounts

  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pod[each.key].json
}

data "aws_iam_policy_document" "pod" {
  for_each = local.accounts

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.issuer.provider]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.issuer.url}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.issuer.url}:sub"
      values   = ["system:serviceaccount:${each.value.subject}"]
    }
  }
}

resource "aws_iam_role_policy" "pod" {
  for_each = local.accounts

  role   = aws_iam_role.pod[each.key].id
  policy = each.value.policy
}
