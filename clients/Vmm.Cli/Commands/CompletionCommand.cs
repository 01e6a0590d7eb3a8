using System.CommandLine;
using Vmm.Cli.Terminal;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl completion</c>: scripts that ask vmmctl itself what may follow.</summary>
internal static class CompletionCommand
{
    private const string Bash = """
        # vmmctl completion for bash: eval "$(vmmctl completion bash)"
        _vmmctl() {
            local IFS=$'\n'
            COMPREPLY=($(compgen -W "$(vmmctl "[suggest:$COMP_POINT]" "$COMP_LINE" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
        }
        complete -o default -F _vmmctl vmmctl
        """;

    private const string Zsh = """
        # vmmctl completion for zsh: source <(vmmctl completion zsh)
        _vmmctl() {
            local -a found
            found=("${(@f)$(vmmctl "[suggest:$CURSOR]" "$BUFFER" 2>/dev/null)}")
            if [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
        }
        compdef _vmmctl vmmctl
        """;

    private const string Fish = """
        # vmmctl completion for fish: vmmctl completion fish | source
        complete -c vmmctl -a '(vmmctl "[suggest:"(commandline -C)"]" (commandline -b) 2>/dev/null)'
        """;

    public static Command Create(CliConsole console)
    {
        var shell = new Argument<string>("shell") { Description = "bash, zsh or fish." };
        shell.AcceptOnlyFromAmong("bash", "zsh", "fish");
        var command = new Command("completion", "Print a shell's completion script, with how to load it in its first line.") { shell };
        command.SetAction(parsed =>
        {
            console.Text.WriteLine(parsed.GetRequiredValue(shell) switch { "bash" => Bash, "zsh" => Zsh, _ => Fish });
            return ExitCode.Success;
        });
        return command;
    }
}
