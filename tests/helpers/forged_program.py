"""An object that runs code when Python unpickles it."""


class Program:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))
