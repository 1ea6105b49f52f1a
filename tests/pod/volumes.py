"""Volumes as kubelet makes them: a Secret's files behind a symlink that flips, with the pod's group."""
import os, pathlib, shutil


class Projection:
    """A Secret, a ConfigMap or several of them in one folder, written as kubelet's AtomicWriter writes them."""

    def __init__(self, path, mode, group):
        self.path, self.mode, self.group, self.written = pathlib.Path(path), mode, group, 0
        self.path.mkdir(parents=True)

    def write(self, files):
        """A new folder with all files, then one flip of `..data`, then what is no longer there goes."""
        self.written += 1
        new = self.path / f"..2026_11_29_{self.written}"
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
            os.chown(new / name, 0, self.group)
            os.chmod(new / name, self.mode)
        data, old = self.path / "..data", None
        if data.is_symlink():
            old = self.path / os.readlink(data)
        (self.path / "..data_tmp").symlink_to(new.name)
        os.replace(self.path / "..data_tmp", data)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for one in self.path.iterdir():
            if not one.name.startswith("..") and one.name not in files:
                one.unlink()
        if old:
            shutil.rmtree(old)


class Volumes:
    """The volumes of one pod below `folder`; `objects` are the cluster's Secrets and ConfigMaps by (kind, name)."""

    def __init__(self, folder, spec, objects):
        self.paths, self.projections, self.objects = {}, [], objects
        group = spec.get("securityContext", {}).get("fsGroup", 0)
        for volume in spec.get("volumes", []):
            path = pathlib.Path(folder) / volume["name"]
            self.paths[volume["name"]] = path
            if "emptyDir" in volume:
                path.mkdir(parents=True)
                os.chown(path, 0, group)
                os.chmod(path, 0o2777)
                continue
            sources, mode = self.sources_of(volume)
            self.projections.append((Projection(path, mode, group), sources))
        self.update()

    @staticmethod
    def sources_of(volume):
        """[((kind, name), items or None)] and the mode of the files."""
        if "secret" in volume:
            return [(("Secret", volume["secret"]["secretName"]), None)], volume["secret"].get("defaultMode", 0o644)
        if "configMap" in volume:
            return [(("ConfigMap", volume["configMap"]["name"]), None)], volume["configMap"].get("defaultMode", 0o644)
        parts = volume["projected"]["sources"]
        kinds = {"secret": "Secret", "configMap": "ConfigMap"}
        sources = [((kinds[kind], one["name"]), one.get("items")) for part in parts for kind, one in part.items()]
        return sources, volume["projected"].get("defaultMode", 0o644)

    def update(self):
        """What kubelet does some time after an object has changed."""
        for projection, sources in self.projections:
            files = {}
            for place, items in sources:
                held = self.objects.get(place, {})
                if items is None:
                    files.update(held)
                else:
                    files.update({one["path"]: held[one["key"]] for one in items if one["key"] in held})
            projection.write(files)
