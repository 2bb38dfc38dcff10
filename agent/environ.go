package agent

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// passed are the variables that an engine gets from the job's environment: where programs and libraries are, which
// devices and networks the cluster gave, how the site sets up its software. Everything else stays behind.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LIBRARY_PATH", "PYTHONPATH",
	"VIRTUAL_ENV", "CONDA_PREFIX", "CPATH", "BASH_ENV", "MODULEPATH", "MODULESHOME", "LOADEDMODULES", "_LMFILES_",
	"XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
}

// passedPrefixes are families of such variables.
var passedPrefixes = []string{
	"LC_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "NVSHMEM_", "ROCR_", "HIP_", "HSA_", "FI_", "OMPI_", "PMIX_", "PMI_", "OMP_",
	"MKL_", "SLURM_", "NOMAD_", "HF_", "TORCH_", "TRITON_", "VLLM_", "SGLANG_", "SGL_", "TRTLLM_", "LLAMA_", "GGML_",
	"PYTORCH_", "LMOD_", "BASH_FUNC_", "APPTAINER_", "SINGULARITY_", "ENROOT_",
}

// secretWords mark variables that are never passed on, whatever family they are of.
var secretWords = []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE", "JWT"}

// environment chooses from the job's environment and puts more over it. Later maps win.
func environment(job []string, more ...map[string]string) []string {
	env := map[string]string{}
	for _, entry := range job {
		if name, value, ok := strings.Cut(entry, "="); ok && passes(name) {
			env[name] = value
		}
	}
	for _, m := range more {
		maps.Copy(env, m)
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

func passes(name string) bool {
	upper := strings.ToUpper(name)
	for _, word := range secretWords {
		if strings.Contains(upper, word) {
			return false
		}
	}
	return slices.Contains(passed, name) || slices.ContainsFunc(passedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// caches says where an engine may keep compiled kernels and the like: where the user's cache is, if it can be written
// to, so that the next run finds them again; else in the run's own folder. What the environment sets itself stays.
func caches(job []string, dir string) map[string]string {
	set := map[string]string{}
	for _, entry := range job {
		name, value, _ := strings.Cut(entry, "=")
		set[name] = value
	}
	base := filepath.Join(dir, "cache")
	for _, candidate := range []string{set["XDG_CACHE_HOME"], under(set["HOME"], ".cache"), set["HOME"]} {
		if candidate == "" || unix.Access(candidate, unix.W_OK|unix.X_OK) != nil {
			continue
		}
		if base = candidate; candidate == set["HOME"] {
			base = under(candidate, ".cache") // not there yet; the engine makes it
		}
		break
	}
	env := map[string]string{"XDG_CACHE_HOME": base}
	for name, sub := range map[string]string{"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "torchinductor", "VLLM_CACHE_ROOT": "vllm"} {
		if set[name] == "" {
			env[name] = filepath.Join(base, sub)
		}
	}
	return env
}

func under(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}
