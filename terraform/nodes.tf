data "aws_ami" "debian" {
  count = var.ami_id == "" ? 1 : 0

  most_recent = true
  owners      = ["136693071363"] # Debian

  filter {
    name   = "name"
    values = ["debian-12-${var.architecture == "arm64" ? "arm64" : "amd64"}-*"]
  }
}

locals {
  ami_id        = var.ami_id != "" ? var.ami_id : data.aws_ami.debian[0].id
  instance_type = var.architecture == "arm64" ? "m7g.large" : "m7i.large"
  router_type   = var.architecture == "arm64" ? "c7g.medium" : "c7i.large"

  # The number at the end of a name makes the address: node-07 is .17, router-02 is .102 of its zone.
  node_addresses   = { for name, node in var.nodes : name => cidrhost(local.zone_cidrs[local.zones[node.zone_index]], 10 + tonumber(regex("[0-9]+$", name))) }
  router_addresses = { for name, router in var.routers : name => cidrhost(local.zone_cidrs[local.zones[router.zone_index]], 100 + tonumber(regex("[0-9]+$", name))) }
}

resource "aws_key_pair" "this" {
  key_name_prefix = "${var.cluster}-"
  public_key      = trimspace(var.ssh_public_key)
}

resource "aws_instance" "node" {
  for_each = var.nodes

  ami                    = local.ami_id
  instance_type          = coalesce(each.value.instance_type, local.instance_type)
  subnet_id              = aws_subnet.zone[local.zones[each.value.zone_index]].id
  private_ip             = local.node_addresses[each.key]
  vpc_security_group_ids = [aws_security_group.nodes.id]
  key_name               = aws_key_pair.this.key_name
  iam_instance_profile   = aws_iam_instance_profile.node.name
  ebs_optimized          = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required" # IMDSv2 only
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = 16
    encrypted   = true
  }

  tags = {
    Name          = each.key
    "fortdb:role" = "node"
    "fortdb:etcd" = tostring(each.value.etcd)
  }

  lifecycle {
    # A newer AMI, or another key, is rolled out by replacing one node at a time, when an operator says so.
    ignore_changes = [ami, key_name, user_data]
  }
}
