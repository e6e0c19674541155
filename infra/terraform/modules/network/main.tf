# Two subnets a zone: outside, where the balancer and the NAT gateways are, and inside, where everything else is.

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  enable_dns_hostnames = true

  tags = { Name = var.name }
}

resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "outside" {
  for_each = toset(var.zones)

  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.cidr, 8, index(var.zones, each.key))

  tags = { Name = "${var.name}-outside-${each.key}" }
}

resource "aws_subnet" "inside" {
  for_each = toset(var.zones)

  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.cidr, 3, index(var.zones, each.key) + 1) # 8,190 addresses: each pod takes one

  tags = { Name = "${var.name}-inside-${each.key}" }
}

locals {
  gateways = var.one_gateway ? slice(var.zones, 0, 1) : var.zones
}

resource "aws_eip" "gateway" {
  for_each = toset(local.gateways)

  domain = "vpc"
}

resource "aws_nat_gateway" "this" {
  for_each = toset(local.gateways)

  allocation_id = aws_eip.gateway[each.key].id
  subnet_id     = aws_subnet.outside[each.key].id

  depends_on = [aws_internet_gateway.this]
}

resource "aws_route_table" "outside" {
  vpc_id = aws_vpc.this.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
}

resource "aws_route_table" "inside" {
  for_each = toset(var.zones)

  vpc_id = aws_vpc.this.id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.this[var.one_gateway ? var.zones[0] : each.key].id
  }
}

resource "aws_route_table_association" "outside" {
  for_each = aws_subnet.outside

  subnet_id      = each.value.id
  route_table_id = aws_route_table.outside.id
}

resource "aws_route_table_association" "inside" {
  for_each = aws_subnet.inside

  subnet_id      = each.value.id
  route_table_id = aws_route_table.inside[each.key].id
}

resource "aws_vpc_endpoint" "s3" { # free, and snapshots need not pay the NAT gateway
  vpc_id          = aws_vpc.this.id
  service_name    = "com.amazonaws.${data.aws_region.this.name}.s3"
  route_table_ids = [for table in aws_route_table.inside : table.id]
}

data "aws_region" "this" {}
