# Everything applied to a provider that answers anything: how the parts are joined, and which values are refused.

mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::123456789012:oidc-provider/mocked" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mocked" }
  }
  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/mocked/0" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/mocked/0" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::mocked" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_eks_cluster" {
    defaults = { identity = [{ oidc = [{ issuer = "https://oidc.eks.eu-central-1.amazonaws.com/id/MOCKED" }] }] }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bentoflow-production/churn" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_secretsmanager_random_password" {
    defaults = { random_password = "mockedmockedmockedmockedmocked" }
  }
}

variables {
  environment         = "production"
  region              = "eu-central-1"
  zones               = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  repository          = "acme/bentoflow"
  github_environments = ["training", "production"]
  certificate         = "arn:aws:acm:eu-central-1:123456789012:certificate/mocked"
  administrators      = ["arn:aws:iam::123456789012:role/platform"]
  alarm_topics        = ["arn:aws:sns:eu-central-1:123456789012:oncall"]
}

run "everything" {
  assert {
    condition     = output.registry == "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bentoflow-production"
    error_message = "BENTOFLOW_REGISTRY is the prefix that the repositories share"
  }
  assert {
    condition     = keys(output.buckets) == ["artefacts", "data"]
    error_message = "the bucket of the logs is nobody's to write to"
  }
  assert {
    condition     = keys(output.github_roles) == ["production", "training"]
    error_message = "one role for each GitHub environment"
  }
  assert {
    condition     = keys(output.pod_roles) == ["balancer", "mlflow", "worker"]
    error_message = "one role for each service account that needs AWS"
  }
  assert {
    condition     = output.address != null && output.target_group != null
    error_message = "a certificate makes a balancer"
  }
}

run "inside_only" {
  command = plan
  variables {
    certificate = null
    one_gateway = true
    cache       = { replicas = 0 }
  }
  assert {
    condition     = output.address == null && output.target_group == null
    error_message = "no certificate, no balancer"
  }
  assert {
    condition     = keys(output.pod_roles) == ["mlflow", "worker"]
    error_message = "nobody registers targets without a balancer"
  }
}

run "refuses_a_wrong_name" {
  command = plan
  variables { environment = "Production" }
  expect_failures = [var.environment]
}

run "refuses_one_zone" {
  command = plan
  variables { zones = ["eu-central-1a"] }
  expect_failures = [var.zones]
}

run "refuses_addresses_that_the_policies_do_not_know" {
  command = plan
  variables { cidr = "172.16.0.0/16" }
  expect_failures = [var.cidr]
}

run "refuses_an_api_for_everybody" {
  command = plan
  variables { api_access = ["0.0.0.0/0"] }
  expect_failures = [var.api_access]
}

run "refuses_an_old_kubernetes" {
  command = plan
  variables { kubernetes = "1.31" }
  expect_failures = [var.kubernetes]
}

run "refuses_nodes_of_arm" {
  command = plan
  variables { nodes = { type = "m7g.large" } }
  expect_failures = [var.nodes]
}

run "refuses_a_single_node" {
  command = plan
  variables { nodes = { min = 1 } }
  expect_failures = [var.nodes]
}

run "refuses_a_database_without_backups" {
  command = plan
  variables { database = { backup_days = 0 } }
  expect_failures = [var.database]
}

run "refuses_a_wildcard_for_an_environment" {
  command = plan
  variables { github_environments = ["*"] }
  expect_failures = [var.github_environments]
}
