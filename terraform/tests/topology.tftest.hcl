# What is planned, without an account: the provider is mocked.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
}

variables {
  region               = "eu-central-1"
  allowed_client_cidrs = ["203.0.113.0/24", "198.51.100.7/32"]
  ssh_public_key       = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Yx0m3oT1C2o6wq4Qm0mE0kq3cYQm5y2r8m0sQy1aB test"
  ami_id               = "ami-0123456789abcdef0"
}

run "three_nodes_in_three_zones" {
  command = plan

  assert {
    condition     = { for name, node in aws_instance.node : name => node.private_ip } == { node-01 = "10.20.0.11", node-02 = "10.20.1.12", node-03 = "10.20.2.13" }
    error_message = "Nodes must have fixed addresses made of their zone and number."
  }

  assert {
    condition     = length(distinct([for volume in aws_ebs_volume.data : volume.availability_zone])) == 3
    error_message = "Nodes and their volumes must lie in three zones."
  }

  assert {
    condition     = { for name, router in aws_instance.router : name => router.private_ip } == { router-01 = "10.20.0.101", router-02 = "10.20.1.102" }
    error_message = "Routers must have fixed addresses."
  }
}

run "data_is_encrypted_and_apart_from_the_instance" {
  command = plan

  assert {
    condition     = alltrue([for volume in aws_ebs_volume.data : volume.encrypted && volume.type == "gp3"])
    error_message = "Data volumes must be encrypted gp3."
  }

  assert {
    condition     = alltrue([for node in aws_instance.node : length(node.ebs_block_device) == 0])
    error_message = "Data must not be on a volume that goes with its instance."
  }
}

run "imdsv2_only" {
  command = plan

  assert {
    condition     = alltrue([for instance in merge(aws_instance.node, aws_instance.router) : instance.metadata_options[0].http_tokens == "required"])
    error_message = "Instances must require IMDSv2."
  }
}

run "clients_come_in_by_one_port_from_named_networks" {
  command = plan

  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.clients : "${rule.cidr_ipv4} ${rule.from_port}-${rule.to_port}"]) == toset(["203.0.113.0/24 5000-5000", "198.51.100.7/32 5000-5000"])
    error_message = "Port 5000 must be open to the named networks and to nobody else."
  }

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.admin_ssh) == 0
    error_message = "SSH must be closed unless admin_cidrs says otherwise."
  }

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.inside : rule.cidr_ipv4 == null])
    error_message = "Ports inside the ring must be open to security groups, never to addresses."
  }
}

run "two_nodes_on_a_host_have_neighbouring_ports" {
  command = plan

  variables {
    nodes_per_host = 2
  }

  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.inside : "${rule.from_port}-${rule.to_port}" if rule.from_port != rule.to_port]) == toset(["5100-5101", "5200-5201", "5300-5301"])
    error_message = "The second node of a host must be reachable, and no other port may be opened with it."
  }
}

run "nothing_is_public" {
  command = plan

  assert {
    condition     = alltrue([for subnet in aws_subnet.zone : !subnet.map_public_ip_on_launch])
    error_message = "Subnets must not hand out public addresses."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.backup.block_public_acls,
      aws_s3_bucket_public_access_block.backup.block_public_policy,
      aws_s3_bucket_public_access_block.backup.ignore_public_acls,
      aws_s3_bucket_public_access_block.backup.restrict_public_buckets,
    ])
    error_message = "The backup bucket must be private."
  }
}

run "a_fourth_node_leaves_the_others_where_they_are" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-03 = { zone_index = 2, etcd = true }
      node-07 = { zone_index = 0, volume_gib = 500 }
    }
  }

  assert {
    condition     = aws_instance.node["node-07"].private_ip == "10.20.0.17" && aws_instance.node["node-01"].private_ip == "10.20.0.11"
    error_message = "Addresses must follow names, not positions."
  }

  assert {
    condition     = aws_ebs_volume.data["node-07"].size == 500
    error_message = "A node may have a volume of its own size."
  }
}

run "object_lock_is_asked_for_by_name" {
  command = plan

  variables {
    backup_object_lock    = true
    backup_retention_days = 90
  }

  assert {
    condition     = aws_s3_bucket_object_lock_configuration.backup[0].rule[0].default_retention[0].days == 90
    error_message = "Object lock must keep backups for the retention."
  }
}
