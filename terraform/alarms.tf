# AWS' own hardware fails: an instance whose system check fails is started again elsewhere, with its
# address and its volumes.
resource "aws_cloudwatch_metric_alarm" "recover" {
  for_each = { for name, instance in merge(aws_instance.node, aws_instance.router) : name => instance.id }

  alarm_name          = "${var.cluster}-${each.key}-recover"
  alarm_description   = "The hardware under ${each.key} fails; AWS starts it again elsewhere."
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed_System"
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 60
  evaluation_periods  = 2
  dimensions          = { InstanceId = each.value }
  alarm_actions       = concat(["arn:aws:automate:${var.region}:ec2:recover"], var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn])
}
