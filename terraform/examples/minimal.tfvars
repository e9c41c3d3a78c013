# Three nodes, two routers, one address: terraform apply -var-file=examples/minimal.tfvars
region               = "eu-central-1"
allowed_client_cidrs = ["203.0.113.0/24"]
admin_cidrs          = ["203.0.113.0/24"] # who may log in by SSH, Ansible before all; nobody may without it
ssh_public_key       = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Yx0m3oT1C2o6wq4Qm0mE0kq3cYQm5y2r8m0sQy1aB you@example.org"
