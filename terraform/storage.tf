# Data lives on volumes of its own: a node is replaced, and the new one takes its volume over.

resource "aws_ebs_volume" "data" {
  for_each = var.nodes

  availability_zone = local.zones[each.value.zone_index]
  type              = "gp3"
  size              = each.value.volume_gib
  encrypted         = true

  tags = {
    Name          = "${var.cluster}-${each.key}-data"
    "fortdb:node" = each.key
  }

  lifecycle {
    prevent_destroy = true # see destroy_override.tf.example
  }
}

resource "aws_volume_attachment" "data" {
  for_each = var.nodes

  device_name                    = "/dev/sdf"
  volume_id                      = aws_ebs_volume.data[each.key].id
  instance_id                    = aws_instance.node[each.key].id
  stop_instance_before_detaching = true
}
