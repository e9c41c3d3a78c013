resource "aws_instance" "router" {
  for_each = var.routers

  ami                    = local.ami_id
  instance_type          = coalesce(each.value.instance_type, local.router_type)
  subnet_id              = aws_subnet.zone[local.zones[each.value.zone_index]].id
  private_ip             = local.router_addresses[each.key]
  vpc_security_group_ids = [aws_security_group.routers.id]
  key_name               = aws_key_pair.this.key_name
  iam_instance_profile   = aws_iam_instance_profile.router.name
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
    "fortdb:role" = "router"
    "fortdb:etcd" = "false"
  }

  lifecycle {
    ignore_changes = [ami, key_name, user_data]
  }
}

resource "aws_eip" "this" {
  domain = "vpc"

  tags = {
    Name          = var.cluster
    "fortdb:role" = "endpoint"
  }
}

# Where the address is at first. From then on the routers move it themselves, by a lease in etcd.
resource "aws_eip_association" "this" {
  allocation_id       = aws_eip.this.allocation_id
  instance_id         = aws_instance.router[sort(keys(var.routers))[0]].id
  allow_reassociation = true

  lifecycle {
    ignore_changes = [instance_id, network_interface_id, private_ip_address]
  }
}
