terraform {
  required_version = ">= 1.10.0, < 2.0.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80.0, < 6.0.0"
    }
  }

  # State of a team belongs into S3, encrypted and locked; see README.md, "State".
  # backend "s3" {}
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ "fortdb:cluster" = var.cluster }, var.tags)
  }
}
