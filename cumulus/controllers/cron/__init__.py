"""The cron controller: makes the jobs of GPUCronJobs when they are due."""
