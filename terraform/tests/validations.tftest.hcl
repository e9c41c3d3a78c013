# Every validation refuses what it is there to refuse.

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
  allowed_client_cidrs = ["203.0.113.0/24"]
  ssh_public_key       = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Yx0m3oT1C2o6wq4Qm0mE0kq3cYQm5y2r8m0sQy1aB test"
  ami_id               = "ami-0123456789abcdef0"
}

run "no_region" {
  command = plan

  variables {
    region = "Frankfurt"
  }

  expect_failures = [var.region]
}

run "a_region_of_another_partition" {
  command = plan

  variables {
    region = "us-gov-west-1"
  }

  expect_failures = [var.region]
}

run "an_address_is_no_cidr" {
  command = plan

  variables {
    allowed_client_cidrs = ["203.0.113.7"]
  }

  expect_failures = [var.allowed_client_cidrs]
}

run "the_whole_internet_by_accident" {
  command = plan

  variables {
    allowed_client_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.allowed_client_cidrs]
}

run "a_path_is_no_key" {
  command = plan

  variables {
    ssh_public_key = "~/.ssh/id_ed25519.pub"
  }

  expect_failures = [var.ssh_public_key]
}

run "a_private_key" {
  command = plan

  variables {
    ssh_public_key = "-----BEGIN OPENSSH PRIVATE KEY-----"
  }

  expect_failures = [var.ssh_public_key]
}

run "a_name_with_spaces" {
  command = plan

  variables {
    cluster = "My Ring"
  }

  expect_failures = [var.cluster]
}

run "ssh_for_everybody" {
  command = plan

  variables {
    admin_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.admin_cidrs]
}

run "a_network_without_room" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/24"
  }

  expect_failures = [var.vpc_cidr]
}

run "two_zones" {
  command = plan

  variables {
    zones = ["eu-central-1a", "eu-central-1b"]
  }

  expect_failures = [var.zones]
}

run "a_zone_named_twice" {
  command = plan

  variables {
    zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c", "eu-central-1c"]
  }

  expect_failures = [var.zones]
}

run "two_nodes" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
    }
  }

  expect_failures = [var.nodes]
}

run "a_node_without_a_number" {
  command = plan

  variables {
    nodes = {
      node-01  = { zone_index = 0, etcd = true }
      node-02  = { zone_index = 1, etcd = true }
      database = { zone_index = 2, etcd = true }
    }
  }

  expect_failures = [var.nodes]
}

run "a_number_that_makes_no_address" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-95 = { zone_index = 2, etcd = true }
    }
  }

  expect_failures = [var.nodes]
}

run "all_in_two_zones" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-03 = { zone_index = 1, etcd = true }
    }
  }

  expect_failures = [var.nodes]
}

run "a_node_in_a_zone_that_is_not" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-03 = { zone_index = 3, etcd = true }
    }
  }

  expect_failures = [var.nodes]
}

run "a_node_between_two_zones" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-03 = { zone_index = 1.5, etcd = true }
    }
  }

  expect_failures = [var.nodes]
}

run "two_members_of_etcd" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-03 = { zone_index = 2 }
    }
  }

  expect_failures = [var.nodes]
}

run "a_volume_without_room" {
  command = plan

  variables {
    nodes = {
      node-01 = { zone_index = 0, etcd = true }
      node-02 = { zone_index = 1, etcd = true }
      node-03 = { zone_index = 2, etcd = true, volume_gib = 2 }
    }
  }

  expect_failures = [var.nodes]
}

run "no_router" {
  command = plan

  variables {
    routers = {}
  }

  expect_failures = [var.routers]
}

run "a_router_called_otherwise" {
  command = plan

  variables {
    routers = { proxy = { zone_index = 0 } }
  }

  expect_failures = [var.routers]
}

run "a_router_in_a_zone_that_is_not" {
  command = plan

  variables {
    routers = { router-01 = { zone_index = 3 } }
  }

  expect_failures = [var.routers]
}

run "five_nodes_on_a_host" {
  command = plan

  variables {
    nodes_per_host = 5
  }

  expect_failures = [var.nodes_per_host]
}

run "another_architecture" {
  command = plan

  variables {
    architecture = "riscv"
  }

  expect_failures = [var.architecture]
}

run "a_name_is_no_ami" {
  command = plan

  variables {
    ami_id = "debian-12"
  }

  expect_failures = [var.ami_id]
}

run "no_retention" {
  command = plan

  variables {
    backup_retention_days = 0
  }

  expect_failures = [var.backup_retention_days]
}

run "the_whole_internet_on_purpose" {
  command = plan

  variables {
    allowed_client_cidrs        = ["0.0.0.0/0"]
    allow_clients_from_anywhere = true
  }
}

run "a_fourth_zone" {
  command = plan

  variables {
    zones   = ["eu-central-1a", "eu-central-1b", "eu-central-1c", "eu-central-1d"]
    routers = { router-01 = { zone_index = 3 } }
  }
}
