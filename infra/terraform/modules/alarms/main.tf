# What Prometheus inside the cluster cannot see, or not when it matters: what the cluster stands on.

locals {
  database = { DBInstanceIdentifier = var.database }
  always = {
    database-disk     = { of = "AWS/RDS", metric = "FreeStorageSpace", below = true, at = 5 * 1024 * 1024 * 1024, dimensions = local.database }
    database-cpu      = { of = "AWS/RDS", metric = "CPUUtilization", below = false, at = 80, dimensions = local.database }
    database-memory   = { of = "AWS/RDS", metric = "FreeableMemory", below = true, at = 256 * 1024 * 1024, dimensions = local.database }
    database-sessions = { of = "AWS/RDS", metric = "DatabaseConnections", below = false, at = 300, dimensions = local.database }
  }
  cached = merge([
    for member in var.cache : {
      "${member}-memory" = { of = "AWS/ElastiCache", metric = "DatabaseMemoryUsagePercentage", below = false, at = 75, dimensions = { CacheClusterId = member } }
      "${member}-cpu"    = { of = "AWS/ElastiCache", metric = "EngineCPUUtilization", below = false, at = 80, dimensions = { CacheClusterId = member } }
    }
  ]...)
  balanced = var.balancer == null ? {} : {
    gateway-down   = { of = "AWS/ApplicationELB", metric = "HealthyHostCount", below = true, at = 1, dimensions = var.balancer }
    gateway-errors = { of = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", below = false, at = 10, dimensions = { LoadBalancer = try(var.balancer.LoadBalancer, "") } }
  }
  all = merge(local.always, local.cached, local.balanced)
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.all

  alarm_name          = "${var.name}-${each.key}"
  namespace           = each.value.of
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  comparison_operator = each.value.below ? "LessThanThreshold" : "GreaterThanThreshold"
  threshold           = each.value.at
  statistic           = endswith(each.value.metric, "Count") && !each.value.below ? "Sum" : each.value.below ? "Minimum" : "Average"
  period              = 300
  evaluation_periods  = 2
  treat_missing_data  = each.value.below ? "breaching" : "notBreaching"
  alarm_actions       = var.topics
  ok_actions          = var.topics
}
