"""proto"""
import heapq, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np, optuna
from optuna.distributions import *
from optuna.samplers import *
from raydd.tuning import samplers as S, study as studies
from search_spaces import load_space
optuna.logging.set_verbosity(optuna.logging.ERROR); warnings.simplefilter("ignore")
import functools

class Objective:
    def __init__(self, space, seed):
        rng=np.random.default_rng([7,seed]); self.space=space
        st=optuna.create_study(sampler=RandomSampler(seed=0)); kinds={}
        for _ in range(64):
            t=st.ask(); space.settings(t); kinds|=t.distributions
        self.kinds=dict(sorted(kinds.items())); home=dict(space.first[0]) if space.first else {}
        self.choice={}; self.best={}; self.weight={}
        for n,k in self.kinds.items():
            if isinstance(k,CategoricalDistribution):
                e=rng.normal(0,.6,len(k.choices))*rng.choice([0.2,1,2]); 
                self.choice[n]=e
            else:
                h=self.place(n,home.get(n)) if n in home else .5
                self.best[n]=float(np.clip(h+rng.normal(0,.25),0.05,.95)); self.weight[n]=float(rng.choice([0,0,1,3,6,10]))
        names=list(self.best); self.pairs=[tuple(rng.choice(names,2,replace=False))+(float(rng.choice([-1,1])),float(rng.uniform(2,8))) for _ in range(4)]
        hi={n for n,c in self.choice.items() for _ in [0]}
        # hand-made settings have the better choice with chance 3/4
        for n,e in self.choice.items():
            if n in home and rng.random()<.6:
                i=self.kinds[n].choices.index(home[n]); j=int(np.argmax(e)); e[i],e[j]=e[j],e[i]
    def place(self,n,v):
        k=self.kinds[n]
        lo,hi,v=(np.log(k.low),np.log(k.high),np.log(v)) if k.log else (k.low,k.high,v)
        return float((v-lo)/(hi-lo)) if hi>lo else .5
    def __call__(self,params):
        off={n:self.place(n,params[n])-b for n,b in self.best.items() if n in params}
        y=48.0
        for n,o in off.items():
            a=abs(o); y-=self.weight[n]*(a*a*4 if a<.25 else 2*a-.25)
        for a,b,s,w in self.pairs:
            if a in off and b in off: y-=w*(off[a]+s*off[b])**2
        for n,e in self.choice.items():
            if n in params: y+=e[self.kinds[n].choices.index(params[n])]
        return y

def run(make, seed, trials=24, at_once=4, noise=.4, first=True, obj=None):
    import torch; torch.set_num_threads(1)
    space=load_space("repblend"); f=Objective(space, seed if obj is None else obj); rng=np.random.default_rng([3,seed])
    st=optuna.create_study(direction="maximize")
    firsts=space.first if first else ()
    for s in firsts: st.enqueue_trial(dict(s))
    running=[]; now=0; done=0
    while done<trials:
        while len(running)<at_once and len(st.trials)-0<max(trials,len(firsts)) or (len(running)<at_once and any(t.state.name=="WAITING" for t in st.trials)):
            make(st,seed); t=st.ask(); space.settings(t); heapq.heappush(running,(now+rng.uniform(.7,1.3),t.number,t))
        now,_,t=heapq.heappop(running); v=f(t.params); t.set_user_attr("true",v); st.tell(t,v+rng.normal(0,noise)); done+=1
    ts=st.trials; best=max(ts,key=lambda t:t.value)
    ref=max(f(t.params) for t in ts[:len(firsts)]) if firsts else 48-0
    # any-best
    return best.user_attrs["true"]-ref, max(t.user_attrs["true"] for t in ts)-ref

def named(fn, startup=8, count=True):
    def make(st, seed):
        asked=len([t for t in st.get_trials(deepcopy=False) if t.state.name!="WAITING"])
        d=int(np.random.SeedSequence([seed,asked]).generate_state(1)[0])
        n=asked if count else len([t for t in st.get_trials(deepcopy=False) if t.state.is_finished()])
        st.sampler=RandomSampler(seed=d) if n<startup else fn(d)
    return make

V={}
V["random"]=named(S.random)
V["today"]=named(lambda d:TPESampler(seed=d,n_startup_trials=8,multivariate=True,group=True,constant_liar=True),8,False)
V["start7"]=named(lambda d:TPESampler(seed=d,n_startup_trials=1,multivariate=True,group=True,constant_liar=True),7)
V["tpe256"]=named(S.tpe,7)
V["wtpe"]=named(S.whole_tpe,7)
V["gp"]=named(S.gp,7)
if __name__=="__main__":
    import importlib.util
    if len(sys.argv)>2:
        exec(open(sys.argv[2]).read())
    names=sys.argv[1].split(",")
    R=int(sys.argv[3]) if len(sys.argv)>3 else 24
    for n in names:
        t=time.process_time(); xs=[run(V[n],s) for s in range(R)]; t=time.process_time()-t
        a=np.array(xs); print(f"{n:10s} chosen {a[:,0].mean():.2f} ± {a[:,0].std(ddof=1)/R**.5:.2f}  best {a[:,1].mean():.2f}  {t:.0f} s", flush=True)
