# TLS ends here. Everything goes to the pods of the cluster's gateway, whose routes say which hosts and paths there are.

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_150:protection is asked for by a variable; its default is yes
  #checkov:skip=CKV2_AWS_28:a web firewall is the account's decision; associate it with the ARN in the outputs
  name               = var.name
  load_balancer_type = "application"
  subnets            = var.subnets
  security_groups    = [aws_security_group.this.id]

  drop_invalid_header_fields = true
  enable_deletion_protection = var.protected
  idle_timeout               = 60 # seconds, twice as long as a service works on a request

  access_logs {
    bucket  = var.logs
    prefix  = "balancer"
    enabled = true
  }
}

resource "aws_lb_listener" "tls" {
  load_balancer_arn = aws_lb.this.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"
  certificate_arn   = var.certificate

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_lb_listener" "plain" {
  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_lb_target_group" "this" {
  #checkov:skip=CKV_AWS_378:inside the network a gateway speaks plain HTTP; TLS ends at the balancer
  name                 = var.name
  vpc_id               = var.network
  target_type          = "ip"
  port                 = var.port
  protocol             = "HTTP"
  deregistration_delay = 30

  health_check {
    path    = "/"
    matcher = "200-499" # a gateway without a route for the balancer's address says 404, and lives
  }
}

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-balancer-"
  description = "HTTPS from everywhere, the gateway inside"
  vpc_id      = var.network
}

resource "aws_vpc_security_group_ingress_rule" "outside" {
  #checkov:skip=CKV_AWS_260:only to be redirected to HTTPS
  for_each = { https = 443, redirect = 80 }

  security_group_id = aws_security_group.this.id
  description       = each.key
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

resource "aws_vpc_security_group_egress_rule" "inside" {
  security_group_id = aws_security_group.this.id
  description       = "the gateway"
  cidr_ipv4         = var.cidr
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
}

resource "aws_vpc_security_group_ingress_rule" "gateway" {
  security_group_id            = var.to
  description                  = "the gateway from the balancer"
  referenced_security_group_id = aws_security_group.this.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}
