import pytest
pytestmark = pytest.mark.usefixtures("quick_programs")
def test_it(tiny_path, tmp_path, one_length, run_experiment, capsys):
    args=[tiny_path,'--out',tmp_path/'s','--recipe','/tmp/w/h/arm/tiny.toml','--prompts','builtin:pairs/test[:12]','builtin:ordinary[:4]','--exits','2,4','--probe-layers','all','--probe-prompts','builtin:pairs/train[:60]','--probe-folds',3,'--answer-tokens',4,'--seeds',1,'--spoken','None','--votes',2,'--votes-limit',2,'--cuts',0,4,'--batch-size',8]
    assert run_experiment('think_then_decide',*args,'--only','direct','thought')==0
    out=capsys.readouterr().out
    open('/tmp/w/h/arm/out.txt','w').write(out)
