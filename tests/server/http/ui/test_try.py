from tests.server.http.ui.conftest import *
from tests.documents import *
def test_it(browser, served):
    from cumulus.service.addresses import page_address, PageAddress
    home=served.path.parent/"home"
    page_address.write(home, PageAddress("http://localhost"))
    for d in (node("gpu-1"), job("train"), running("go"), active("go-a1-r0-d0")):
        served.store.create(d)
    assert browser.get("/ui/").body.count(b"Sign in")
    browser.sign_in()
    for u in ("/ui/","/ui/jobs","/ui/queue","/ui/nodes","/ui/users","/ui/jobs/default/train","/ui/jobs/default/go","/ui/nodes/gpu-1","/ui/jobs/default/go/log","/ui/jobs/default/go/delete","/ui/jobs/default/go/extend","/ui/jobs/default/go/rerun"):
        a=browser.get(u)
        print(u,a.code,len(a.body))
        open("/tmp/out"+u.replace("/","_")+".html","wb").write(a.body)
        if a.code!=200: print(a.body.decode()[-600:])
