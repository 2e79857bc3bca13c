# Completion of spearctl for fish; made by `make man`.

function __spearctl_path
    set -l skip 0
    set -l path
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word --adapter --addr --advertise --batch --check --completion --data --every --expect --expires --feedback --format --gguf-lora --held-out --hint --home --id --interval --limit --listen --max-drop --max-new-tokens --memory-budget --merged --model --name --options --out --peft --plot --profile --prometheus --prompt --reason --replay --rounds --seed --system --system-prompt --temperature --timeout --tolerance --unit --user --verdict --words -n
            set skip 1
        else if not string match -q -- '-*' $word
            set -a path $word
        end
    end
    echo "$path"
end

function __spearctl_at
    test (__spearctl_path) = "$argv[1]"
end

function __spearctl_in
    string match -q -- "$argv[1] *" (__spearctl_path)" "
end

complete -c spearctl -f
complete -c spearctl -n '__spearctl_at ""' -a init -d 'Makes a home: keys, profile, model, an empty feedback log'
complete -c spearctl -n '__spearctl_at ""' -a invite -d 'Writes a ticket that lets one device in'
complete -c spearctl -n '__spearctl_at ""' -a join -d 'Joins a swarm with a ticket from spearctl invite, then runs…'
complete -c spearctl -n '__spearctl_at ""' -a up -d 'Runs the node: shares what this device learned, and takes i…'
complete -c spearctl -n '__spearctl_at ""' -a down -d 'Stops the node of this home; what it holds stays'
complete -c spearctl -n '__spearctl_at ""' -a status -d 'Shows this device: model, adapter, feedback, training, and…'
complete -c spearctl -n '__spearctl_at ""' -a chat -d 'Talks to the model; + or - after an answer teaches it'
complete -c spearctl -n '__spearctl_at ""' -a feedback -d 'Adds to the feedback log, checks, converts and prunes it'
complete -c spearctl -n '__spearctl_at ""' -a train -d 'Learns from the feedback log'
complete -c spearctl -n '__spearctl_at ""' -a log -d 'Shows what was learned, round by round: figures, measured a…'
complete -c spearctl -n '__spearctl_at ""' -a eval -d 'Measures an adapter on a log'
complete -c spearctl -n '__spearctl_at ""' -a adapter -d 'Lists adapter versions and switches between them'
complete -c spearctl -n '__spearctl_at ""' -a peers -d 'The other members of the swarm'
complete -c spearctl -n '__spearctl_at ""' -a leave -d 'Leaves the swarm: stops the node, and keeps what was learne…'
complete -c spearctl -n '__spearctl_at ""' -a export -d 'Writes the adapter in use for other programs, in one form o…'
complete -c spearctl -n '__spearctl_at ""' -a import -d 'Takes in an adapter made elsewhere'
complete -c spearctl -n '__spearctl_at ""' -a profile -d 'Shows hardware profiles, finds the one that suits this mach…'
complete -c spearctl -n '__spearctl_at ""' -a doctor -d 'Checks this device: home, keys, model, ledger, node and wha…'
complete -c spearctl -n '__spearctl_at ""' -a demo -d 'Shows it all in a few minutes: three devices that learn fro…'
complete -c spearctl -n '__spearctl_at ""' -l version -d 'Print this program\'s version'
complete -c spearctl -n '__spearctl_at ""' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_at ""' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_at ""' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_at ""' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_at ""' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_at ""' -l install-completion -d 'Install completion for the current shell'
complete -c spearctl -n '__spearctl_at ""' -l show-completion -d 'Show completion for the current shell, to copy it or custom…'
complete -c spearctl -n '__spearctl_in "init"' -l name -d 'What to call this device, instead of its host name' -x
complete -c spearctl -n '__spearctl_in "init"' -l model -d 'Base model: a folder, a .gguf file, a hub id or a catalogue…' -rF
complete -c spearctl -n '__spearctl_in "init"' -l profile -d 'Hardware profile: a name or a .toml file' -rF
complete -c spearctl -n '__spearctl_in "init"' -l system-prompt -d 'What to put before every conversation' -x
complete -c spearctl -n '__spearctl_in "init"' -l lock -d 'Lock the keys of this device by a passphrase'
complete -c spearctl -n '__spearctl_in "init"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "init"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "init"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "init"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "init"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "invite"' -l expires -d 'How long it is good for: 30m, 24h, 7d' -x
complete -c spearctl -n '__spearctl_in "invite"' -l addr -d 'An address by which others reach this device' -x
complete -c spearctl -n '__spearctl_in "invite"' -l out -d 'Write the ticket to a new file that only you can read' -rF
complete -c spearctl -n '__spearctl_in "invite"' -l name -d 'What to call a swarm that this founds; else as this device' -x
complete -c spearctl -n '__spearctl_in "invite"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "invite"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "invite"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "invite"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "invite"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "join"' -l detach -d 'Run the node in the background, and return'
complete -c spearctl -n '__spearctl_in "join"' -l lan -d 'Look in the local network for those who may let this device…'
complete -c spearctl -n '__spearctl_in "join"' -l timeout -d 'How long to try' -x
complete -c spearctl -n '__spearctl_in "join"' -l yes -d 'Do not ask what happens to what was learned'
complete -c spearctl -n '__spearctl_in "join"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "join"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "join"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "join"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "join"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "join"' -F
complete -c spearctl -n '__spearctl_in "up"' -l detach -d 'Run in the background, and return'
complete -c spearctl -n '__spearctl_in "up"' -l listen -d 'Where to listen, instead of the home\'s setting' -x
complete -c spearctl -n '__spearctl_in "up"' -l advertise -d 'An address by which others reach this device' -x
complete -c spearctl -n '__spearctl_in "up"' -l no-listen -d 'Only dial others; nobody dials this device'
complete -c spearctl -n '__spearctl_in "up"' -l lan -d 'Announce this node in the local network, and look for membe…'
complete -c spearctl -n '__spearctl_in "up"' -l prometheus -d 'Serve metrics there, such as 127.0.0.1:9464' -x
complete -c spearctl -n '__spearctl_in "up"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "up"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "up"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "up"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "up"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "down"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "down"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "down"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "down"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "down"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "status"' -l watch -d 'Go on showing it, until Ctrl-C'
complete -c spearctl -n '__spearctl_in "status"' -l interval -d 'With --watch: time between two looks' -x
complete -c spearctl -n '__spearctl_in "status"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "status"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "status"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "status"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "status"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "chat"' -l system -d 'What the model is told first, instead of the home\'s setting' -x
complete -c spearctl -n '__spearctl_in "chat"' -l adapter -d 'Adapter version; "base" for none' -x
complete -c spearctl -n '__spearctl_in "chat"' -l temperature -d '0 always takes the likeliest word' -x
complete -c spearctl -n '__spearctl_in "chat"' -l max-new-tokens -d 'Most tokens of an answer' -x
complete -c spearctl -n '__spearctl_in "chat"' -l seed -d 'Repeats a chat' -x
complete -c spearctl -n '__spearctl_in "chat"' -l profile -d 'Hardware profile, instead of the home\'s' -rF
complete -c spearctl -n '__spearctl_in "chat"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "chat"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "chat"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "chat"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "chat"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_at "feedback"' -a add -d 'Adds an entry, or extends one'
complete -c spearctl -n '__spearctl_at "feedback"' -a check -d 'Names every line that cannot be used'
complete -c spearctl -n '__spearctl_at "feedback"' -a stats -d 'Counts what a feedback log holds'
complete -c spearctl -n '__spearctl_at "feedback"' -a convert -d 'Converts TRL preference data to a feedback log'
complete -c spearctl -n '__spearctl_at "feedback"' -a forget -d 'Removes entries from the feedback log for good'
complete -c spearctl -n '__spearctl_in "feedback"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "feedback"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "feedback"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "feedback"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "feedback"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "feedback add"' -l prompt -d 'What the model was asked; - reads it from stdin' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l completion -d 'What it answered' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l verdict -d 'Whether that was right' -xa 'right wrong'
complete -c spearctl -n '__spearctl_in "feedback add"' -l feedback -d 'What was wrong with it, in your words' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l hint -d 'What would help to answer, but not the answer' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l check -d 'How answers can be judged without you: choice, yes_no, numb…' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l expect -d 'The right answer, for --check; for regex, its pattern' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l format -d 'The form answers must have' -xa 'bare answer_line any'
complete -c spearctl -n '__spearctl_in "feedback add"' -l options -d 'How many options there are, for --check choice' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l tolerance -d 'How far off is still right, for --check number' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l words -d 'The most words an answer in form has, for --check exact' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l unit -d 'A unit that may follow, for --check number' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l id -d 'An entry to extend or correct, or the name of a new one' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l user -d 'Who says so' -x
complete -c spearctl -n '__spearctl_in "feedback add"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "feedback add"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "feedback add"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "feedback add"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "feedback add"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "feedback check"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "feedback check"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "feedback check"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "feedback check"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "feedback check"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "feedback check"' -F
complete -c spearctl -n '__spearctl_in "feedback stats"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "feedback stats"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "feedback stats"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "feedback stats"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "feedback stats"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "feedback stats"' -F
complete -c spearctl -n '__spearctl_in "feedback convert"' -l append -d 'Add to OUT if there is one already'
complete -c spearctl -n '__spearctl_in "feedback convert"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "feedback convert"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "feedback convert"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "feedback convert"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "feedback convert"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "feedback convert"' -F
complete -c spearctl -n '__spearctl_in "feedback forget"' -l yes -d 'Do not ask'
complete -c spearctl -n '__spearctl_in "feedback forget"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "feedback forget"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "feedback forget"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "feedback forget"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "feedback forget"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "train"' -l feedback -d 'Feedback log, instead of the home\'s own' -rF
complete -c spearctl -n '__spearctl_in "train"' -l rounds -d 'Rounds to run: 8; with --follow, no end' -x
complete -c spearctl -n '__spearctl_in "train"' -l profile -d 'Hardware profile, instead of the home\'s' -rF
complete -c spearctl -n '__spearctl_in "train"' -l seed -d 'Seed, instead of the home\'s' -x
complete -c spearctl -n '__spearctl_in "train"' -l again -d 'Learn again from attempts already trained on'
complete -c spearctl -n '__spearctl_in "train"' -l no-share -d 'Keep what is learned on this device; --share-kept shares it…'
complete -c spearctl -n '__spearctl_in "train"' -l share-kept -d 'Train nothing; share what --no-share kept'
complete -c spearctl -n '__spearctl_in "train"' -l memory-budget -d 'Most memory to take, such as 1.5GB or 900MiB' -x
complete -c spearctl -n '__spearctl_in "train"' -l dry-run -d 'Only say what would be learned from'
complete -c spearctl -n '__spearctl_in "train"' -l follow -d 'Stay, and learn again as more comes'
complete -c spearctl -n '__spearctl_in "train"' -l batch -d 'Learn once so many answers are new' -x
complete -c spearctl -n '__spearctl_in "train"' -l every -d 'Or once anything new has waited so long' -x
complete -c spearctl -n '__spearctl_in "train"' -l held-out -d 'Share of prompts that only judge updates' -x
complete -c spearctl -n '__spearctl_in "train"' -l max-drop -d 'Discard an update if they score lower by more' -x
complete -c spearctl -n '__spearctl_in "train"' -l replay -d 'Share of a round for earlier right answers' -x
complete -c spearctl -n '__spearctl_in "train"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "train"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "train"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "train"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "train"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "log"' -s n -d 'The last N rounds' -x
complete -c spearctl -n '__spearctl_in "log"' -l plot -d 'Draw it, too: a file of .png, .svg or .pdf' -rF
complete -c spearctl -n '__spearctl_in "log"' -l force -d 'With --plot: overwrite the file'
complete -c spearctl -n '__spearctl_in "log"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "log"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "log"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "log"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "log"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "eval"' -l data -d 'Log with checks, or with answers that people judged' -rF
complete -c spearctl -n '__spearctl_in "eval"' -l adapter -d 'Adapter version; "base" for none' -x
complete -c spearctl -n '__spearctl_in "eval"' -l profile -d 'Hardware profile, instead of the home\'s' -rF
complete -c spearctl -n '__spearctl_in "eval"' -l memory-budget -d 'Most memory to take, such as 1.5GB or 900MiB' -x
complete -c spearctl -n '__spearctl_in "eval"' -l limit -d 'Only the first N entries' -x
complete -c spearctl -n '__spearctl_in "eval"' -l answers -d 'Print every question with its answer'
complete -c spearctl -n '__spearctl_in "eval"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "eval"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "eval"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "eval"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "eval"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_at "adapter"' -a list -d 'Lists the adapter versions, oldest first'
complete -c spearctl -n '__spearctl_at "adapter"' -a use -d 'Puts an adapter version to use; the others stay'
complete -c spearctl -n '__spearctl_at "adapter"' -a rollback -d 'Goes back to an earlier version; nothing is deleted'
complete -c spearctl -n '__spearctl_in "adapter"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "adapter"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "adapter"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "adapter"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "adapter"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "adapter list"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "adapter list"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "adapter list"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "adapter list"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "adapter list"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "adapter use"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "adapter use"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "adapter use"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "adapter use"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "adapter use"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "adapter rollback"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "adapter rollback"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "adapter rollback"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "adapter rollback"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "adapter rollback"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_at "peers"' -a list -d 'Lists all members but this device'
complete -c spearctl -n '__spearctl_at "peers"' -a show -d 'Shows one member'
complete -c spearctl -n '__spearctl_at "peers"' -a ban -d 'Keeps this device from linking to a member; it stays a memb…'
complete -c spearctl -n '__spearctl_at "peers"' -a revoke -d 'Ends a membership for everybody'
complete -c spearctl -n '__spearctl_in "peers"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "peers"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "peers"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "peers"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "peers"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "peers list"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "peers list"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "peers list"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "peers list"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "peers list"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "peers show"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "peers show"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "peers show"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "peers show"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "peers show"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "peers ban"' -l undo -d 'Link to it again'
complete -c spearctl -n '__spearctl_in "peers ban"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "peers ban"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "peers ban"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "peers ban"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "peers ban"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "peers revoke"' -l reason -d 'Why; all members can read it' -x
complete -c spearctl -n '__spearctl_in "peers revoke"' -l yes -d 'Do not ask'
complete -c spearctl -n '__spearctl_in "peers revoke"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "peers revoke"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "peers revoke"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "peers revoke"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "peers revoke"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "leave"' -l delete -d 'Delete the ledger and the old keys, instead of putting them…'
complete -c spearctl -n '__spearctl_in "leave"' -l yes -d 'Do not ask'
complete -c spearctl -n '__spearctl_in "leave"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "leave"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "leave"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "leave"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "leave"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "export"' -l peft -d 'Write a PEFT adapter folder' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "export"' -l merged -d 'Write a whole model, with the adapter in its weights' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "export"' -l gguf-lora -d 'Write a LoRA file for llama.cpp' -rF
complete -c spearctl -n '__spearctl_in "export"' -l adapter -d 'A version, instead of what is in use' -x
complete -c spearctl -n '__spearctl_in "export"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "export"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "export"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "export"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "export"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "import"' -l same-base -d 'It was made for this home\'s model, under another name'
complete -c spearctl -n '__spearctl_in "import"' -l yes -d 'Do not ask'
complete -c spearctl -n '__spearctl_in "import"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "import"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "import"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "import"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "import"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "import"' -F
complete -c spearctl -n '__spearctl_at "profile"' -a list -d 'Lists the shipped profiles, from the smallest machine to th…'
complete -c spearctl -n '__spearctl_at "profile"' -a show -d 'Shows what a profile says'
complete -c spearctl -n '__spearctl_at "profile"' -a detect -d 'Looks at this machine and names the profile that suits it'
complete -c spearctl -n '__spearctl_at "profile"' -a tune -d 'Measures batch sizes on this machine, writes the best as a…'
complete -c spearctl -n '__spearctl_in "profile"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "profile"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "profile"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "profile"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "profile"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "profile list"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "profile list"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "profile list"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "profile list"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "profile list"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "profile show"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "profile show"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "profile show"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "profile show"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "profile show"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "profile detect"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "profile detect"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "profile detect"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "profile detect"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "profile detect"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "profile tune"' -l memory-budget -d 'Most memory to take, such as 1.5GB or 900MiB' -x
complete -c spearctl -n '__spearctl_in "profile tune"' -l name -d 'What to call the profile; one of the same name is replaced' -x
complete -c spearctl -n '__spearctl_in "profile tune"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "profile tune"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "profile tune"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "profile tune"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "profile tune"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "doctor"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "doctor"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "doctor"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "doctor"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "doctor"' -s v -l verbose -d 'Say more about what happens'
complete -c spearctl -n '__spearctl_in "demo"' -l rounds -d 'Rounds to run, by turns' -x
complete -c spearctl -n '__spearctl_in "demo"' -l profile -d 'Hardware profile, instead of the one detected' -rF
complete -c spearctl -n '__spearctl_in "demo"' -l seed -d 'Of questions and training' -x
complete -c spearctl -n '__spearctl_in "demo"' -l home -d 'The home to work in, instead of SPEARCTL_HOME' -xa '(__fish_complete_directories)'
complete -c spearctl -n '__spearctl_in "demo"' -l json -d 'Print one JSON object instead of text'
complete -c spearctl -n '__spearctl_in "demo"' -l debug -d 'Show a traceback on errors'
complete -c spearctl -n '__spearctl_in "demo"' -s q -l quiet -d 'Print the result and errors only'
complete -c spearctl -n '__spearctl_in "demo"' -s v -l verbose -d 'Say more about what happens'
