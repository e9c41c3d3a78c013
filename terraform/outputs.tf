output "elastic_ip" {
  description = "The ring's public address."
  value       = aws_eip.this.public_ip
}

output "elastic_ip_allocation_id" {
  description = "AWS' id of that address; the routers move it by this."
  value       = aws_eip.this.allocation_id
}

output "endpoint" {
  description = "Where clients connect: fortdb --url fortdbs://ENDPOINT."
  value       = "${aws_eip.this.public_ip}:5000"
}

output "nodes" {
  description = "Data nodes by name."
  value = {
    for name, instance in aws_instance.node : name => {
      private_ip  = instance.private_ip
      zone        = instance.availability_zone
      instance_id = instance.id
      volume_id   = aws_ebs_volume.data[name].id
      etcd        = var.nodes[name].etcd
    }
  }
}

output "routers" {
  description = "Routers by name."
  value = {
    for name, instance in aws_instance.router : name => {
      private_ip  = instance.private_ip
      zone        = instance.availability_zone
      instance_id = instance.id
    }
  }
}

output "nodes_by_zone" {
  description = "Names of the data nodes in each zone."
  value       = { for name, instance in aws_instance.node : instance.availability_zone => name... }
}

output "backup_bucket" {
  description = "Where backups go."
  value       = aws_s3_bucket.backup.bucket
}

output "region" {
  description = "The region, for tools that read these outputs."
  value       = var.region
}

output "cluster" {
  description = "The ring's name, for tools that read these outputs."
  value       = var.cluster
}
