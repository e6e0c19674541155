# What infra/kubernetes counts on: a network plug-in that enforces policies, metrics for the autoscaler, both volumes.

locals {
  settings = {
    vpc-cni            = { enableNetworkPolicy = "true" }
    kube-proxy         = {}
    coredns            = {}
    metrics-server     = {}
    aws-efs-csi-driver = {}
    aws-ebs-csi-driver = {}
  }
  drivers = { # driver of volumes: its managed policy
    aws-efs-csi-driver = { policy = "service-role/AmazonEFSCSIDriverPolicy", account = "efs-csi-controller-sa" }
    aws-ebs-csi-driver = { policy = "service-role/AmazonEBSCSIDriverPolicy", account = "ebs-csi-controller-sa" }
  }
}

resource "aws_eks_addon" "this" {
  for_each = local.settings

  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = each.key
  configuration_values        = length(each.value) > 0 ? jsonencode(each.value) : null
  service_account_role_arn    = try(aws_iam_role.driver[each.key].arn, null)
  resolve_conflicts_on_update = "PRESERVE"

  depends_on = [aws_eks_node_group.this]
}

resource "aws_iam_role" "driver" {
  for_each = local.drivers

  name_prefix        = "${var.name}-csi-"
  assume_role_policy = data.aws_iam_policy_document.driver[each.key].json
}

data "aws_iam_policy_document" "driver" {
  for_each = local.drivers

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.this.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:kube-system:${each.value.account}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

locals {
  issuer = trimprefix(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")
}

resource "aws_iam_role_policy_attachment" "driver" {
  for_each = local.drivers

  role       = aws_iam_role.driver[each.key].name
  policy_arn = "${local.policies}/${each.value.policy}"
}
