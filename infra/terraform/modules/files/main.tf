# The shared volume of the journal: EFS, which acknowledges a write when it is on disks of several zones.

resource "aws_efs_file_system" "this" {
  encrypted       = true
  kms_key_id      = var.key
  throughput_mode = "elastic"

  lifecycle_policy {
    transition_to_ia = "AFTER_90_DAYS"
  }

  tags = { Name = var.name }
}

resource "aws_efs_backup_policy" "this" {
  file_system_id = aws_efs_file_system.this.id

  backup_policy {
    status = "ENABLED"
  }
}

resource "aws_efs_access_point" "this" {
  file_system_id = aws_efs_file_system.this.id

  posix_user { # that of the images
    uid = 10001
    gid = 10001
  }

  root_directory {
    path = "/bentoflow"

    creation_info {
      owner_uid   = 10001
      owner_gid   = 10001
      permissions = "0770"
    }
  }
}

resource "aws_efs_mount_target" "this" {
  count = length(var.subnets)

  file_system_id  = aws_efs_file_system.this.id
  subnet_id       = var.subnets[count.index]
  security_groups = [aws_security_group.this.id]
}

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-files-"
  description = "NFS from the cluster"
  vpc_id      = var.network
}

resource "aws_vpc_security_group_ingress_rule" "nfs" {
  security_group_id            = aws_security_group.this.id
  description                  = "NFS from the cluster"
  referenced_security_group_id = var.from
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
}
