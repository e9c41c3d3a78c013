"""The rehearsal: FortDB's deployment, end to end, on one machine without a cloud account.

The very files a stranger uses (terraform/, inventory/, ansible/, tests/deploy/) run unmodified: real
Terraform with the real AWS provider against simulated AWS, real Ansible over real SSH onto real hosts with
systemd that carry the addresses Terraform handed out, then testinfra, then clients on the Elastic IP.

    python -m rehearsal run        everything, torn down at the end
    python -m rehearsal up         everything up to a ring that serves, left running
    python -m rehearsal down       tears down, also what a crashed run left

What is played and what is not: `simulated_aws` is AWS's interface (moto), `network` its VPC, `hosts` its
instances. All hosts share this machine's kernel, clock and disk. Security groups do not filter here (the
hosts' own firewalls do), and what IAM would refuse is allowed.
"""
