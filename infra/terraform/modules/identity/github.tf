# A job of a named environment of one repository, and nobody else, may read one secret.

locals {
  github   = "token.actions.githubusercontent.com"
  provider = var.github_provider != null ? var.github_provider : one(aws_iam_openid_connect_provider.github[*].arn)
}

resource "aws_iam_openid_connect_provider" "github" { # one an account
  count = var.github_provider == null ? 1 : 0

  url            = "https://${local.github}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "github" {
  for_each = toset(var.github_environments)

  name                 = "${var.name}-github-${each.key}"
  max_session_duration = 3600
  assume_role_policy   = data.aws_iam_policy_document.github_trust[each.key].json
}

data "aws_iam_policy_document" "github_trust" {
  for_each = toset(var.github_environments)

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [local.provider]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.github}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.github}:sub"
      values   = ["repo:${var.repository}:environment:${each.key}"]
    }
  }
}

resource "aws_iam_role_policy" "github" {
  for_each = aws_iam_role.github

  role   = each.value.id
  policy = data.aws_iam_policy_document.github.json
}

data "aws_iam_policy_document" "github" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [var.secret]
  }

  statement {
    actions   = ["kms:Decrypt"]
    resources = [var.key]

    condition {
      test     = "StringLike"
      variable = "kms:ViaService"
      values   = ["secretsmanager.*.amazonaws.com"]
    }
  }
}
