# Hosts may do what they need and nothing else.

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name_prefix        = "${var.cluster}-node-"
  description        = "FortDB data nodes: backups"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role" "router" {
  name_prefix        = "${var.cluster}-router-"
  description        = "FortDB routers: the Elastic IP"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_instance_profile" "node" {
  name_prefix = "${var.cluster}-node-"
  role        = aws_iam_role.node.name
}

resource "aws_iam_instance_profile" "router" {
  name_prefix = "${var.cluster}-router-"
  role        = aws_iam_role.router.name
}

data "aws_iam_policy_document" "node" {
  statement {
    sid       = "ListBackups"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.backup.arn]
  }

  statement {
    sid       = "ReadAndWriteBackups"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.backup.arn}/*"]
  }
}

resource "aws_iam_role_policy" "node" {
  name   = "backups"
  role   = aws_iam_role.node.id
  policy = data.aws_iam_policy_document.node.json
}

data "aws_caller_identity" "current" {}

locals {
  ec2_arn = "arn:aws:ec2:${var.region}:${data.aws_caller_identity.current.account_id}"
}

data "aws_iam_policy_document" "router" {
  # Describing knows no resources: AWS allows it for all or none.
  statement {
    sid       = "SeeAddresses"
    actions   = ["ec2:DescribeAddresses"]
    resources = ["*"]
  }

  statement {
    sid     = "MoveTheElasticIp"
    actions = ["ec2:AssociateAddress", "ec2:DisassociateAddress"]
    resources = concat(
      ["${local.ec2_arn}:elastic-ip/${aws_eip.this.allocation_id}", "${local.ec2_arn}:network-interface/*"],
      [for router in aws_instance.router : router.arn],
    )
  }
}

resource "aws_iam_role_policy" "router" {
  name   = "elastic-ip"
  role   = aws_iam_role.router.id
  policy = data.aws_iam_policy_document.router.json
}

resource "aws_iam_role_policy_attachment" "ssm" {
  for_each = { node = aws_iam_role.node.name, router = aws_iam_role.router.name }

  role       = each.value
  policy_arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
}
