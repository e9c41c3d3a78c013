# Who may talk to whom. One resource a rule, so that a plan shows what opens and what closes.

resource "aws_security_group" "routers" {
  name_prefix = "${var.cluster}-routers-"
  description = "FortDB routers: clients come in here"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${var.cluster}-routers" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "nodes" {
  name_prefix = "${var.cluster}-nodes-"
  description = "FortDB data nodes and etcd: inside only"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${var.cluster}-nodes" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "endpoints" {
  name_prefix = "${var.cluster}-endpoints-"
  description = "AWS' API inside the VPC"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${var.cluster}-endpoints" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(var.allowed_client_cidrs)

  security_group_id = aws_security_group.routers.id
  description       = "Clients"
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = 5000
  to_port           = 5000
}

resource "aws_vpc_security_group_ingress_rule" "admin_ssh" {
  for_each = toset(var.admin_cidrs)

  security_group_id = aws_security_group.routers.id
  description       = "Administrators by SSH"
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

locals {
  # What nodes and routers open to each other: name => [group that listens, group that calls, port]
  inside = {
    nodes-ssh-from-routers     = { to = "nodes", from = "routers", port = 22 }
    routers-ssh-from-routers   = { to = "routers", from = "routers", port = 22 }
    peers-from-nodes           = { to = "nodes", from = "nodes", port = 5200 }
    peers-from-routers         = { to = "nodes", from = "routers", port = 5200 }
    node-clients-from-nodes    = { to = "nodes", from = "nodes", port = 5100 }
    node-status-from-routers   = { to = "nodes", from = "routers", port = 5300 }
    node-status-from-nodes     = { to = "nodes", from = "nodes", port = 5300 }
    router-status-from-nodes   = { to = "routers", from = "nodes", port = 5301 }
    etcd-clients-from-nodes    = { to = "nodes", from = "nodes", port = 2379 }
    etcd-clients-from-routers  = { to = "nodes", from = "routers", port = 2379 }
    etcd-peers-from-nodes      = { to = "nodes", from = "nodes", port = 2380 }
    clients-of-routers-in-ring = { to = "routers", from = "nodes", port = 5000 }
  }
  # These have a port for every data node of a host.
  node_ports = [5100, 5200, 5300]

  groups = { nodes = aws_security_group.nodes.id, routers = aws_security_group.routers.id }
}

resource "aws_vpc_security_group_ingress_rule" "inside" {
  for_each = local.inside

  security_group_id            = local.groups[each.value.to]
  referenced_security_group_id = local.groups[each.value.from]
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port + (contains(local.node_ports, each.value.port) ? var.nodes_per_host - 1 : 0)

  tags = { Name = each.key }
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  security_group_id = aws_security_group.endpoints.id
  description       = "Hosts of the ring"
  cidr_ipv4         = var.vpc_cidr
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "out" {
  for_each = local.groups

  security_group_id = each.value
  description       = "Hosts may call out"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

# Nobody uses the group that comes with a VPC, so it lets nothing through.
resource "aws_default_security_group" "unused" {
  vpc_id = aws_vpc.this.id
}
