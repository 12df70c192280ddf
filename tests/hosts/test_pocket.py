from musubi_ext.hosts.phases import train_job
from musubi_ext.hosts.seam import NoProgress, NoTracking


def test_x(job):
    j = job()
    train_job(j, {}, NoTracking(), NoProgress())
    print(j.path, j.path.stat().st_size)
