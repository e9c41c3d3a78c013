# Six Graviton nodes over three zones, large volumes, backups that nobody can delete early.
region               = "eu-central-1"
cluster              = "orders"
allowed_client_cidrs = ["203.0.113.0/24", "198.51.100.0/24"]
admin_cidrs          = ["203.0.113.7/32"]
ssh_public_key       = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Yx0m3oT1C2o6wq4Qm0mE0kq3cYQm5y2r8m0sQy1aB you@example.org"
architecture         = "arm64"

nodes = {
  node-01 = { zone_index = 0, instance_type = "r7g.2xlarge", volume_gib = 1000, etcd = true }
  node-02 = { zone_index = 1, instance_type = "r7g.2xlarge", volume_gib = 1000, etcd = true }
  node-03 = { zone_index = 2, instance_type = "r7g.2xlarge", volume_gib = 1000, etcd = true }
  node-04 = { zone_index = 0, instance_type = "r7g.2xlarge", volume_gib = 1000 }
  node-05 = { zone_index = 1, instance_type = "r7g.2xlarge", volume_gib = 1000 }
  node-06 = { zone_index = 2, instance_type = "r7g.2xlarge", volume_gib = 1000 }
}
routers = {
  router-01 = { zone_index = 0 }
  router-02 = { zone_index = 1 }
  router-03 = { zone_index = 2 }
}

backup_object_lock    = true
backup_retention_days = 90
