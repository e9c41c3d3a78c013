# --- what a stranger sets -------------------------------------------------------------------------

variable "region" {
  description = "AWS region, for example eu-central-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of an AWS region, such as eu-central-1."
  }

  validation {
    condition     = !can(regex("^(cn|[a-z]{2}-(gov|iso[a-z]?))-", var.region))
    error_message = "Regions of China, of GovCloud and isolated ones are not supported: their ARNs, endpoints and Debian AMIs have other names."
  }
}

variable "allowed_client_cidrs" {
  description = "Who may connect to the ring on port 5000, as CIDRs."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.allowed_client_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Every entry of allowed_client_cidrs must be a CIDR, such as 203.0.113.0/24."
  }

  validation {
    condition     = var.allow_clients_from_anywhere || !anytrue([for cidr in var.allowed_client_cidrs : endswith(cidr, "/0")])
    error_message = "allowed_client_cidrs opens the ring to the whole internet; name your networks, or set allow_clients_from_anywhere = true."
  }
}

variable "ssh_public_key" {
  description = "Public key that Ansible logs in with, as in ~/.ssh/id_ed25519.pub."
  type        = string

  validation {
    condition     = can(regex("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp[0-9]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( .*)?$", trimspace(var.ssh_public_key)))
    error_message = "ssh_public_key must be one line as in ~/.ssh/id_ed25519.pub, not a private key and not a path."
  }
}

# --- what has a default ---------------------------------------------------------------------------

variable "cluster" {
  description = "Name of the ring; part of every name and tag."
  type        = string
  default     = "fortdb"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.cluster))
    error_message = "cluster must be 3 to 32 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "allow_clients_from_anywhere" {
  description = "Say true to mean it when allowed_client_cidrs has 0.0.0.0/0."
  type        = bool
  default     = false
}

variable "admin_cidrs" {
  description = "Who may log in by SSH on the routers (and through them on the nodes); empty: nobody, use Session Manager."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.admin_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "Every entry of admin_cidrs must be a CIDR, and none the whole internet."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC; every zone gets a /24 of it."
  type        = string
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 24 - tonumber(split("/", var.vpc_cidr)[1]), 2))
    error_message = "vpc_cidr must be a CIDR that has room for three /24, such as 10.20.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones, in the order that zone_index counts; empty: the first three of the region."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.zones) == 0 || (length(var.zones) >= 3 && length(distinct(var.zones)) == length(var.zones))
    error_message = "zones must name three availability zones or more, each once: replicas of a partition lie in different zones."
  }
}

variable "nodes" {
  description = "Data nodes by name. zone_index picks the zone; the number at the end of the name makes the private address, for ever."
  type = map(object({
    zone_index    = number
    instance_type = optional(string)
    volume_gib    = optional(number, 100)
    etcd          = optional(bool, false)
  }))
  default = {
    node-01 = { zone_index = 0, etcd = true }
    node-02 = { zone_index = 1, etcd = true }
    node-03 = { zone_index = 2, etcd = true }
  }

  validation {
    condition     = alltrue([for name in keys(var.nodes) : can(regex("^node-[0-9]{2}$", name))])
    error_message = "Nodes are called node-01 to node-89: the number makes their address."
  }

  validation {
    condition     = alltrue([for name in keys(var.nodes) : try(tonumber(regex("[0-9]+$", name)) >= 1 && tonumber(regex("[0-9]+$", name)) <= 89, true)])
    error_message = "Nodes are called node-01 to node-89: the number makes their address."
  }

  validation {
    condition     = length(var.nodes) >= 3 && length(distinct([for node in values(var.nodes) : node.zone_index])) >= 3
    error_message = "A ring needs at least three nodes, in three zones: it keeps three replicas, each in another zone."
  }

  validation {
    condition     = alltrue([for node in values(var.nodes) : contains(local.zone_indices, node.zone_index)])
    error_message = "zone_index of a node counts the zones from 0: there are those of zones, or else three."
  }

  validation {
    condition     = alltrue([for node in values(var.nodes) : node.volume_gib >= 8 && node.volume_gib <= 16384])
    error_message = "volume_gib must be from 8 to 16384."
  }

  validation {
    condition     = contains([3, 5], length([for node in values(var.nodes) : node if node.etcd])) && length(distinct([for node in values(var.nodes) : node.zone_index if node.etcd])) >= 3
    error_message = "etcd runs on three nodes (or five) in three zones: set etcd = true there and nowhere else."
  }
}

variable "routers" {
  description = "Routers by name; one of them has the Elastic IP, the others stand by."
  type = map(object({
    zone_index    = number
    instance_type = optional(string)
  }))
  default = {
    router-01 = { zone_index = 0 }
    router-02 = { zone_index = 1 }
  }

  validation {
    condition     = length(var.routers) >= 1 && alltrue([for name in keys(var.routers) : can(regex("^router-0[1-9]$", name))])
    error_message = "Routers are called router-01 to router-09, and there must be one."
  }

  validation {
    condition     = alltrue([for router in values(var.routers) : contains(local.zone_indices, router.zone_index)])
    error_message = "zone_index of a router counts the zones from 0: there are those of zones, or else three."
  }
}

variable "nodes_per_host" {
  description = "How many data nodes run on a host, as fortdb_node_count of the inventory says: their ports are neighbours, 5100, 5101 and so on."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2, 3, 4], var.nodes_per_host)
    error_message = "nodes_per_host must be 1, 2, 3 or 4."
  }
}

variable "architecture" {
  description = "x86_64, or arm64 for Graviton."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture must be x86_64 or arm64."
  }
}

variable "ami_id" {
  description = "AMI of all hosts; empty: the newest Debian 12 at the first apply. A newer one never replaces a host by itself. Hosts cannot reach a mirror: docs/deploy.md says what it must have."
  type        = string
  default     = ""

  validation {
    condition     = var.ami_id == "" || can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id must look like ami-0123456789abcdef0."
  }
}

variable "ssm_endpoints" {
  description = "Endpoints of Session Manager inside the VPC (about 22 USD a month and zone): login without SSH from outside."
  type        = bool
  default     = false
}

variable "backup_retention_days" {
  description = "How long backups are kept in the bucket."
  type        = number
  default     = 30

  validation {
    condition     = var.backup_retention_days >= 1 && var.backup_retention_days <= 3650
    error_message = "backup_retention_days must be from 1 to 3650."
  }
}

variable "backup_object_lock" {
  description = "Backups cannot be deleted before their retention has passed, not even by an administrator. Chosen once, when the bucket is made."
  type        = bool
  default     = false
}

variable "alarm_topic_arn" {
  description = "SNS topic that is told of alarms; empty: none."
  type        = string
  default     = ""
}

variable "tags" {
  description = "Further tags for everything."
  type        = map(string)
  default     = {}
}
